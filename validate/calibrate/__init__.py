"""Calibration: real kernels and collectives measured here, fitted into a profile that predictions rest on.

The way of the data: `options` say what, `cases` lists it, `measuring` times it (or `logs` reads it) into `points`,
`fitting` makes curves of them, `profile_files` writes them and `profile_text` tells of them. `training_step` trains
the torch model of `transformer` beside its prediction.
"""
