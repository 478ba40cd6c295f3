"""Where kernels and collectives are measured: what is run, how it is timed, and in which order."""
