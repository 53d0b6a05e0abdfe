"""The process that computes: backend, devices, memory, signals, what it runs on."""
