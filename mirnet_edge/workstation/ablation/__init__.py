"""What each part of the networks is worth: variants trained alike, measured, and set against what
the papers say of them."""
