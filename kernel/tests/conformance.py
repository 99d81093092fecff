"""The conformance suite of the Jupyter project, on the installed kernel.

    python3 -m venv .venv && .venv/bin/pip install jupyter_kernel_test
    onelens install && .venv/bin/python kernel/tests/conformance.py -v
"""

import time
import unittest

import jupyter_kernel_test as jkt


class KernelTests(jkt.KernelTests):
    kernel_name = "onelens"
    language_name = "rust"
    file_extension = ".rs"
    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("oops");'
    code_execute_result = [{"code": "6 * 7", "result": "42"}]
    code_display_data = [
        {
            "code": 'onelens::session::display(&vec![("text/html".to_string(), "<b>x</b>".to_string())]);',
            "mime": "text/html",
        }
    ]
    code_generate_error = 'panic!("oops")'
    code_page_something = "?x"
    code_inspect_sample = "answer"
    code_clear_output = "onelens::session::clear_output(true);"
    code_history_pattern = "6*7"
    supported_history_operations = ("tail", "range", "search")
    completion_samples = [{"text": "answ", "matches": {"answer"}}]
    complete_code_samples = ["1 + 1", "let x = 1;", "fn f() -> i32 { 1 }"]
    incomplete_code_samples = ["fn f() {", "let x = (1,", '"abc']
    invalid_code_samples = ["let x = );", "}"]

    def setUp(self):
        self.flush_channels()
        self.execute_helper("let answer = 42;", timeout=120)


class WelcomeTests(jkt.IopubWelcomeTests):
    kernel_name = "onelens"
    support_iopub_welcome = True

    @classmethod
    def tearDownClass(cls):
        # jupyter_client's heartbeat thread misses a stop that comes before its first beat, and then opens sockets until
        # none are left. The welcome comes sooner than that beat on a busy machine.
        deadline = time.monotonic() + 30
        while not cls.kc.hb_channel.is_beating() and time.monotonic() < deadline:
            time.sleep(0.01)
        super().tearDownClass()


if __name__ == "__main__":
    unittest.main()
