"""From a config to a trained run: the step, the loop, devices and hosts."""
