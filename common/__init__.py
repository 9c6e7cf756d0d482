"""What two recipes need and no reader of a recipe needs to see: data, images, the loop, the command line."""
