"""A running job against its prediction: reads logs and traces, and says where the time goes and why.

`lines` knows the frameworks' lines, `reading` turns a log into jobs and their attempts, `steady` finds the steps that
count, `lost` what the rest cost, `figures` and `compare` set measured against predicted, `causes` predicts again with
one thing changed, `kineto` reads a profiler's trace, `site_fit` makes a correction for this site.
"""
