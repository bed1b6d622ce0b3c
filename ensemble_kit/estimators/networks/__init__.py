"""Networks, in torch alone: one family a file, shapes beside the lines."""
