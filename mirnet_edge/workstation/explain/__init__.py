"""What a network does with a picture, and the page that shows it."""
