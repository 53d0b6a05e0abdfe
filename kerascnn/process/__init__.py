"""The process that computes: backend, devices, memory, signals, a description."""
