"""Where measured points become curves: kernels, collectives, and the part that they describe."""
