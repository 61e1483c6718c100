"""The parts of the ComfyUI engine: the workflow, its messages, and the socket they come by."""
