"""Small databases for the text-to-SQL task: tables, rows from a seed, and question patterns with their queries.

A pattern's placeholders are filled from the rows themselves (`values`), so that questions are about what is there.
Amounts in a column never repeat, so that an order by them is the only one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks._people import CITIES, NAMES, THINGS, WORDS

Rows = Mapping[str, list[tuple[object, ...]]]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A query and several ways to ask for it. Levels: 1 one table, 2 aggregates, 3 joins, 4 nested or grouped joins."""

    level: int
    sql: str
    questions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Tables as SQL, a maker of rows, what placeholders may stand for (a query each), and patterns."""

    name: str
    tables: str
    rows: Callable[[random.Random], Rows]
    values: Mapping[str, str]
    patterns: tuple[Pattern, ...]


def _shop_rows(draw: random.Random) -> Rows:
    people = draw.sample(NAMES, 9)
    towns = draw.sample(CITIES, 4)
    things = draw.sample(THINGS, 8)
    prices, stocks = draw.sample(range(2, 90), 8), draw.sample(range(0, 60), 8)
    quantities = draw.sample(range(1, 40), 22)
    bought = [(draw.randint(1, 7), draw.randint(1, 7), draw.randint(2019, 2024)) for _ in range(22)]
    return {
        "customers": [(n + 1, name, draw.choice(towns)) for n, name in enumerate(people)],
        "products": [(n + 1, thing, prices[n] + 0.5, stocks[n]) for n, thing in enumerate(things)],
        "orders": [(n + 1, who, what, quantities[n], year) for n, (who, what, year) in enumerate(bought)],
    }


def _school_rows(draw: random.Random) -> Rows:
    teachers, students = draw.sample(NAMES, 5), draw.sample(NAMES, 10)
    titles, subjects = draw.sample(WORDS, 7), draw.sample(("art", "biology", "history", "music", "physics"), 3)
    hours, marks = draw.sample(range(8, 70), 7), draw.sample(range(20, 100), 26)
    pairs = draw.sample([(s, c) for s in range(1, 10) for c in range(1, 7)], 26)
    return {
        "teachers": [(n + 1, name, draw.choice(subjects)) for n, name in enumerate(teachers)],
        "courses": [(n + 1, title.capitalize(), draw.randint(1, 4), hours[n]) for n, title in enumerate(titles)],
        "students": [(n + 1, name, draw.randint(2001, 2006)) for n, name in enumerate(students)],
        "results": [(s, c, marks[n]) for n, (s, c) in enumerate(pairs)],
    }


def _fleet_rows(draw: random.Random) -> Rows:
    drivers, towns, places = draw.sample(NAMES, 7), draw.sample(CITIES, 3), draw.sample(CITIES, 8)
    distances, costs = draw.sample(range(20, 900), 24), draw.sample(range(10, 400), 24)
    return {
        "drivers": [(n + 1, name, draw.choice(towns), draw.randint(1998, 2023)) for n, name in enumerate(drivers)],
        "trips": [
            (n + 1, draw.randint(1, 6), draw.choice(places), distances[n], costs[n] + 0.25, draw.choice((0, 0, 1)))
            for n in range(24)
        ],
    }


SHOP = Domain(
    name="shop",
    tables="""CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, title TEXT, price REAL, stock INTEGER);
CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers,
  product_id INTEGER REFERENCES products, quantity INTEGER, year INTEGER);""",
    rows=_shop_rows,
    values={
        "city": "SELECT city FROM customers",
        "price": "SELECT price FROM products",
        "product": "SELECT title FROM products WHERE product_id IN (SELECT product_id FROM orders)",
        "person": "SELECT name FROM customers WHERE customer_id IN (SELECT customer_id FROM orders)",
        "year": "SELECT year FROM orders",
        "quantity": "SELECT quantity FROM orders",
    },
    patterns=(
        Pattern(1, "SELECT name FROM customers WHERE city = '{city}'",
                ("Which customers live in {city}? Give their names.", "Names of all customers from {city}.")),
        Pattern(1, "SELECT title FROM products WHERE price > {price}",
                ("Which products cost more than {price}?", "List the titles of products with a price above {price}.")),
        Pattern(1, "SELECT price FROM products WHERE title = '{product}'",
                ("What is the price of {product}?", "How much do {product} cost?")),
        Pattern(2, "SELECT count(*) FROM orders WHERE year = {year}",
                ("How many orders were placed in {year}?", "Count the orders of the year {year}.")),
        Pattern(2, "SELECT city, count(*) FROM customers GROUP BY city",
                ("How many customers are there in each city? Give city and number.",
                 "For every city, show the city and its number of customers.")),
        Pattern(2, "SELECT title FROM products ORDER BY price DESC LIMIT 3",
                ("What are the three most expensive products, the dearest first?",
                 "Give the titles of the 3 products with the highest price, highest first.")),
        Pattern(2, "SELECT sum(quantity) FROM orders WHERE quantity > {quantity}",
                ("What is the total quantity of all orders with a quantity above {quantity}?",
                 "Add up the quantities of the orders that have more than {quantity} pieces.")),
        Pattern(3, "SELECT p.title FROM orders o JOIN products p ON p.product_id = o.product_id JOIN customers c ON "
                   "c.customer_id = o.customer_id WHERE c.name = '{person}'",
                ("Which products did {person} order? Give one title for every order.",
                 "For each order of {person}, show the title of the product.")),
        Pattern(3, "SELECT sum(o.quantity) FROM orders o JOIN products p ON p.product_id = o.product_id "
                   "WHERE p.title = '{product}'",
                ("How many pieces of {product} were ordered in total?",
                 "What is the total ordered quantity of {product}?")),
        Pattern(3, "SELECT sum(o.quantity * p.price) FROM orders o JOIN products p ON p.product_id = o.product_id "
                   "WHERE o.year = {year}",
                ("What was the total value (price times quantity) of the orders in {year}?",
                 "How much money did the orders of {year} bring in, counting price times quantity?")),
        Pattern(4, "SELECT name FROM customers WHERE customer_id NOT IN (SELECT customer_id FROM orders)",
                ("Which customers never ordered anything? Give their names.",
                 "Names of the customers without a single order.")),
        Pattern(4, "SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.customer_id "
                   "GROUP BY c.customer_id HAVING sum(o.quantity) > {quantity}",
                ("Which customers ordered more than {quantity} pieces in total? Give their names.",
                 "Names of the customers whose quantities add up to more than {quantity}.")),
        Pattern(4, "SELECT title FROM products WHERE price > (SELECT avg(price) FROM products)",
                ("Which products cost more than the average product?",
                 "Titles of all products whose price is above the mean price.")),
    ),
)  # fmt: skip

SCHOOL = Domain(
    name="school",
    tables="""CREATE TABLE teachers (teacher_id INTEGER PRIMARY KEY, name TEXT, subject TEXT);
CREATE TABLE courses (course_id INTEGER PRIMARY KEY, title TEXT, teacher_id INTEGER REFERENCES teachers, hours INTEGER);
CREATE TABLE students (student_id INTEGER PRIMARY KEY, name TEXT, birth_year INTEGER);
CREATE TABLE results (student_id INTEGER REFERENCES students, course_id INTEGER REFERENCES courses, mark INTEGER);""",
    rows=_school_rows,
    values={
        "subject": "SELECT subject FROM teachers",
        "hours": "SELECT hours FROM courses",
        "course": "SELECT title FROM courses WHERE course_id IN (SELECT course_id FROM results)",
        "teacher": "SELECT name FROM teachers WHERE teacher_id IN (SELECT teacher_id FROM courses)",
        "student": "SELECT name FROM students WHERE student_id IN (SELECT student_id FROM results)",
        "birth": "SELECT birth_year FROM students",
        "mark": "SELECT mark FROM results",
    },
    patterns=(
        Pattern(1, "SELECT name FROM teachers WHERE subject = '{subject}'",
                ("Who teaches {subject}? Give the names.", "Names of the teachers whose subject is {subject}.")),
        Pattern(1, "SELECT title, hours FROM courses WHERE hours >= {hours}",
                ("Which courses take at least {hours} hours? Show title and hours.",
                 "Title and hours of the courses with {hours} hours or more.")),
        Pattern(1, "SELECT name FROM students WHERE birth_year < {birth}",
                ("Which students were born before {birth}?", "Names of students with a birth year below {birth}.")),
        Pattern(2, "SELECT avg(hours) FROM courses",
                ("How many hours does a course take on average?", "What is the mean number of hours of the courses?")),
        Pattern(2, "SELECT birth_year, count(*) FROM students GROUP BY birth_year",
                ("How many students were born in each year? Show year and number.",
                 "For every birth year, give it and the number of students.")),
        Pattern(2, "SELECT title FROM courses ORDER BY hours LIMIT 2",
                ("Which two courses are the shortest, the shortest first?",
                 "Titles of the 2 courses with the fewest hours, fewest first.")),
        Pattern(2, "SELECT count(*) FROM results WHERE mark > {mark}",
                ("How many results have a mark above {mark}?", "Count the marks that are better than {mark}.")),
        Pattern(3, "SELECT c.title FROM courses c JOIN teachers t ON t.teacher_id = c.teacher_id "
                   "WHERE t.name = '{teacher}'",
                ("Which courses does {teacher} give?", "Titles of the courses whose teacher is {teacher}.")),
        Pattern(3, "SELECT s.name, r.mark FROM results r JOIN students s ON s.student_id = r.student_id JOIN courses c "
                   "ON c.course_id = r.course_id WHERE c.title = '{course}'",
                ("Which marks were given in the course {course}? Show the student's name and the mark.",
                 "Student names and marks for {course}.")),
        Pattern(3, "SELECT avg(r.mark) FROM results r JOIN students s ON s.student_id = r.student_id "
                   "WHERE s.name = '{student}'",
                ("What is the average mark of {student}?", "Mean of all marks of the student {student}.")),
        Pattern(4, "SELECT c.title, max(r.mark) FROM courses c JOIN results r ON r.course_id = c.course_id "
                   "GROUP BY c.course_id",
                ("What is the best mark in each course that has results? Show title and mark.",
                 "For every course with results, give its title and the highest mark.")),
        Pattern(4, "SELECT name FROM students WHERE student_id NOT IN (SELECT student_id FROM results)",
                ("Which students have no result at all?", "Names of the students without any mark.")),
        Pattern(4, "SELECT s.name FROM students s JOIN results r ON r.student_id = s.student_id WHERE r.mark = "
                   "(SELECT max(mark) FROM results)",
                ("Which student got the best mark of all?", "Name of the student with the highest single mark.")),
    ),
)  # fmt: skip

FLEET = Domain(
    name="fleet",
    tables="""CREATE TABLE drivers (driver_id INTEGER PRIMARY KEY, name TEXT, home TEXT, since INTEGER);
CREATE TABLE trips (trip_id INTEGER PRIMARY KEY, driver_id INTEGER REFERENCES drivers, destination TEXT,
  km INTEGER, cost REAL, night INTEGER);""",
    rows=_fleet_rows,
    values={
        "home": "SELECT home FROM drivers",
        "since": "SELECT since FROM drivers",
        "place": "SELECT destination FROM trips",
        "km": "SELECT km FROM trips",
        "driver": "SELECT name FROM drivers WHERE driver_id IN (SELECT driver_id FROM trips)",
    },
    patterns=(
        Pattern(1, "SELECT name FROM drivers WHERE home = '{home}'",
                ("Which drivers have their home in {home}?", "Names of the drivers who live in {home}.")),
        Pattern(1, "SELECT destination, km FROM trips WHERE km > {km}",
                ("Which trips were longer than {km} km? Show destination and km.",
                 "Destination and distance of all trips over {km} km.")),
        Pattern(1, "SELECT name FROM drivers WHERE since <= {since}",
                ("Who has been a driver since {since} or earlier?", "Names of drivers who started by {since}.")),
        Pattern(2, "SELECT count(*) FROM trips WHERE destination = '{place}' AND night = 1",
                ("How many night trips went to {place}? (night is 1 for them)",
                 "Count the trips to {place} at night, where night is 1.")),
        Pattern(2, "SELECT destination, sum(km) FROM trips GROUP BY destination",
                ("How many km were driven to each destination? Show destination and total.",
                 "For every destination, give it and the sum of km.")),
        Pattern(2, "SELECT destination FROM trips ORDER BY cost DESC LIMIT 1",
                ("Where did the most expensive trip go?", "Destination of the trip with the highest cost.")),
        Pattern(3, "SELECT sum(t.cost) FROM trips t JOIN drivers d ON d.driver_id = t.driver_id "
                   "WHERE d.name = '{driver}'",
                ("What did all trips of {driver} cost together?", "Total cost of the trips of the driver {driver}.")),
        Pattern(3, "SELECT d.name FROM trips t JOIN drivers d ON d.driver_id = t.driver_id ORDER BY t.km DESC LIMIT 1",
                ("Who drove the longest trip?", "Name of the driver of the trip with the most km.")),
        Pattern(3, "SELECT DISTINCT d.name FROM trips t JOIN drivers d ON d.driver_id = t.driver_id "
                   "WHERE t.destination = '{place}'",
                ("Which drivers went to {place}? Give each name once.",
                 "Names, without repetitions, of the drivers with a trip to {place}.")),
        Pattern(4, "SELECT d.home, sum(t.km) FROM drivers d JOIN trips t ON t.driver_id = d.driver_id GROUP BY d.home",
                ("How many km did the drivers of each home drive? Show home and total.",
                 "For every home of drivers with trips, give it and the km driven in all.")),
        Pattern(4, "SELECT name FROM drivers WHERE driver_id NOT IN (SELECT driver_id FROM trips)",
                ("Which drivers made no trip?", "Names of the drivers who never went anywhere.")),
        Pattern(4, "SELECT destination FROM trips GROUP BY destination HAVING avg(km) > {km}",
                ("To which destinations were the trips longer than {km} km on average?",
                 "Destinations whose mean distance is above {km} km.")),
    ),
)  # fmt: skip

DOMAINS = (SHOP, SCHOOL, FLEET)


def filled(domain: Domain, seed: str) -> str:
    """The domain's database as SQL text: its tables and rows drawn from the seed."""
    rows = domain.rows(random.Random(seed))
    inserts = [f"INSERT INTO {table} VALUES {', '.join(map(_literal, found))};" for table, found in rows.items()]
    return "\n".join([domain.tables, *inserts])


def _literal(row: tuple[object, ...]) -> str:
    return f"({', '.join(repr(cell) for cell in row)})"
