package failpoint

import "testing"

// Scenario: points for the second time of a step, without a step, and malformed.
// Guarantees: the process is ended at that time of that step alone; what is malformed is refused with what was wanted.
func TestReach(t *testing.T) {
	p, err := Parse("plan:2")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	p.kill = func() { killed++ }
	for _, step := range []string{"blob", "plan", "sent", "blob"} {
		p.Reach(step)
	}
	if killed != 0 {
		t.Fatalf("want no end before the second plan, got %d", killed)
	}
	p.Reach("plan")
	p.Reach("plan")
	if killed != 1 {
		t.Errorf("want one end, at the second plan, got %d", killed)
	}
	(*Points)(nil).Reach("plan")
	if none, err := Parse(""); err != nil {
		t.Error(err)
	} else {
		none.Reach("")
	}
	for _, bad := range []string{"plan:", "plan:0", "plan:x"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q: want an error, got none", bad)
		}
	}
}
