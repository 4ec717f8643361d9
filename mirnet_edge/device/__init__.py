"""What runs on the device between frame and frame."""
