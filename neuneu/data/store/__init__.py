"""The trajectory store: committed checkpoints as parquet files, local or on S3."""
