"""Records (an image with its objects): generated scenes, checks of files, training batches."""
