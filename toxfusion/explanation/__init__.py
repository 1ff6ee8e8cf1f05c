"""Which tiles, genes and modalities a prediction goes with: the numbers, and their pictures."""
