"""Scenario files: reading them, and every problem in them at once."""
