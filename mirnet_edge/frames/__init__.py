"""What a frame is: its layout, its pixel format, its file."""
