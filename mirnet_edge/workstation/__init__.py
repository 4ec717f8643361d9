"""What a workstation does, with torch: train, evaluate, export."""
