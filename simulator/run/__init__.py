"""The whole run: what fails, what is saved, what recovery costs, and when it will be done."""
