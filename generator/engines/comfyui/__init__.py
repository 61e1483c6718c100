"""ComfyUI as an engine: the workflow, its messages, and the socket they come by."""
