"""The diffusers engine.

Free of torch: `settings`, `engine`, `faults`. The others import torch and
diffusers, and are imported by the drawing thread when it first draws.
"""
