"""Where the parts of a Hugging Face model are, how it is loaded and placed, and its tokens. Re-implements nothing."""
