"""The bundled models' folders, and the code that makes them. Nothing here is imported to use them."""
