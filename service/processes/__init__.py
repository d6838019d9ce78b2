"""The processes of one `polyhead serve`: what starts them, watches them and ends them."""
