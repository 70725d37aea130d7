"""What a step costs: counted from the model, read from the compiled program, put on a chip."""
