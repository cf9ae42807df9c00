"""A person as judge: a queue of pairs, a page on this machine, and files of labels."""
