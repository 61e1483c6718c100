"""The engines that settings name, the local GPU among them, and who watches over them."""
