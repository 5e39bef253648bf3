"""Commands that take a model and files of rows, such as `ftkit predict`."""
