"""What people look at: tables at the terminal, pages, pictures, the model card."""
