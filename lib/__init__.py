"""Model blocks, augmentation, data and run folders that the scripts share."""
