"""The bulk-embed command: a bucket of images in, Parquet files of embeddings out, on Ray Data."""
