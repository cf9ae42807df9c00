"""Model families behind one Protocol."""
