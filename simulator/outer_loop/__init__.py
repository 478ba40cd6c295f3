"""What goes on around a training step: reading data, and replicas that do not keep step.

`input_pipeline`, `local_sgd` and `parameter_server` are simulations of their own that take the step's time as given.
"""
