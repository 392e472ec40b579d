"""The process that imports llama.cpp's bindings and serves one model on a unix socket until it has been idle long enough.

Stands apart: imports nothing of this package but what confinement needs.
"""
