"""What `accelerator.py` does on a device, one module a stage. Each runs in a process of its own."""
