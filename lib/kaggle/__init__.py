"""Everything that speaks with Kaggle: client, kernels, submissions, the data."""
