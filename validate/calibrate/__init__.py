"""Calibration: real kernels and collectives measured here, fitted into a profile that predictions rest on."""
