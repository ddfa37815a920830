-- The demo's sample database. Every table has an id and updated_at; rows are made up.
CREATE TABLE products  (id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER, updated_at TEXT);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, email TEXT, city TEXT, updated_at TEXT);
CREATE TABLE orders    (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER, quantity INTEGER,
                        status TEXT DEFAULT 'open', updated_at TEXT);
CREATE TABLE users     (id INTEGER PRIMARY KEY, name TEXT, email TEXT, role TEXT, status TEXT, active INTEGER,
                        updated_at TEXT);
CREATE TABLE logs      (id INTEGER PRIMARY KEY, level TEXT DEFAULT 'info', message TEXT, event TEXT, updated_at TEXT);
CREATE TABLE items     (id INTEGER PRIMARY KEY, name TEXT, value TEXT, status TEXT, updated_at TEXT);
CREATE TABLE test      (id INTEGER PRIMARY KEY, name TEXT, value TEXT, status TEXT, updated_at TEXT);
CREATE TABLE widgets   (id INTEGER PRIMARY KEY, name TEXT, price REAL, status TEXT, updated_at TEXT);

INSERT INTO products (name, price, stock) VALUES
    ('Widget', 9.5, 120), ('Gadget', 24.0, 35), ('Sprocket', 1.25, 900), ('Flange', 3.75, 410), ('Gizmo', 49.0, 12);
INSERT INTO customers (name, email, city) VALUES
    ('Ada Example', 'ada@example.com', 'London'), ('Grace Sample', 'grace@example.com', 'New York'),
    ('Alan Specimen', 'alan@example.org', 'Manchester');
INSERT INTO orders (customer_id, product_id, quantity, status) VALUES
    (1, 1, 10, 'shipped'), (1, 3, 200, 'open'), (2, 2, 1, 'open'), (3, 5, 2, 'cancelled');
INSERT INTO users (name, email, role, status, active) VALUES
    ('ada', 'ada@example.com', 'admin', 'active', 1), ('grace', 'grace@example.com', 'editor', 'active', 1),
    ('alan', 'alan@example.org', 'viewer', 'suspended', 0);
INSERT INTO logs (level, message, event) VALUES ('info', 'sample database created', 'created');
INSERT INTO items (name, value, status) VALUES ('first', '1', 'new'), ('second', '2', 'new');
INSERT INTO test (name, value, status) VALUES ('first', '1', 'new');
INSERT INTO widgets (name, price, status) VALUES ('Widget', 9.5, 'new'), ('Second widget', 12.0, 'new');
