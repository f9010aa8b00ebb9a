"""What all calculators share: from guesses and truths to loss and gradient, with masks, weights and reductions."""
