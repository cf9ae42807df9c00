"""What every room uses: errors, files, proportions, processes. Imports no other room."""
