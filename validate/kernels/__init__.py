"""Measured kernel times, and the fits that the hardware package ships."""
