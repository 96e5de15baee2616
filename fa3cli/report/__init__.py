"""What is to know of an export: gathered as data, written as one html page."""
