"""What leaves the house: tensors, description and the files beside them, and the check that they load."""
