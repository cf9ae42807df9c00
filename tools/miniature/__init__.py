"""How the embedded world was made. Not installed."""
