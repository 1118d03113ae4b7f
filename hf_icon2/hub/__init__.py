"""The Hugging Face Hub: transfers of whole commits, and what to do when one fails."""
