"""The Studio: pictures asked for, from anywhere, and told what became of them."""
