"""Where models come from: hubs, folders, wheels, and the files of weights in them."""
