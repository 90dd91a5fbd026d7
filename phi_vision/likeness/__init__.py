"""How sample data comes to resemble a real dataset, without one real title, code or picture."""
