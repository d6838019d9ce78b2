"""The backup, restore and verify commands: rows and the blobs that they name, in a folder or a bucket."""
