"""Video files in and out, through FFmpeg (PyAV): read, restored in parts, joined."""
