"""The search: every legal parallelism plan of a scenario, exactly priced or excluded by a proven bound."""
