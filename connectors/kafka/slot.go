package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
)

// slot is a file with the id that its process has in the group. The process holds the file's lock for its life, so a
// slot that nobody has locked is of one that has died, and its partitions wait for a member that will not come back:
// whoever finds it leaves the group in its name.
type slot struct {
	file   *os.File
	member string
}

const (
	slotPrefix = "member-"
	// slotBytes is far over any member id, which has the client's name and a UUID.
	slotBytes = 4 << 10
	// slotTries is how often a slot is made anew that another process took for abandoned in the moment before it was
	// locked.
	slotTries = 10
)

// slotFolder is where the slots of a group are. The brokers are part of it: another cluster's group of the same name
// knows none of these members.
func slotFolder(local string, brokers []string, group string) string {
	brokers = slices.Clone(brokers)
	slices.Sort(brokers)
	sum := sha256.Sum256([]byte(strings.Join(append(brokers, group), "\x00")))
	return filepath.Join(local, "members", hex.EncodeToString(sum[:8]))
}

// makeSlot makes a slot of this process's own, without a member id yet.
func makeSlot(dir string) (*slot, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for range slotTries {
		f, err := os.CreateTemp(dir, slotPrefix)
		if err != nil {
			return nil, err
		}
		ours, err := holds(f)
		if ours {
			return &slot{file: f}, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, errors.Join(err, os.Remove(f.Name()))
		}
	}
	return nil, fmt.Errorf("%s: want a slot, got none in %d tries", dir, slotTries)
}

// holds locks an open slot. It is false if another process has it or has removed it.
func holds(f *os.File) (bool, error) {
	ours, err := lock(f)
	if err != nil || !ours {
		return false, err
	}
	open, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(f.Name())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, named), err
}

// write stores the member's id. It need not survive the machine: then the session timeout has passed as well.
func (s *slot) write(member string) error {
	if member == s.member {
		return nil
	}
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	if _, err := s.file.WriteAt([]byte(member), 0); err != nil {
		return err
	}
	s.member = member
	return nil
}

// remove takes the slot away, since its member is in the group no more.
func (s *slot) remove() error { return errors.Join(os.Remove(s.file.Name()), s.file.Close()) }

// abandoned gives the slots of processes that have died, locked.
func abandoned(dir string) (list []*slot, err error) {
	names, err := filepath.Glob(filepath.Join(dir, slotPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				faults = append(faults, err)
			}
			continue
		}
		ours, err := holds(f)
		if !ours {
			faults = append(faults, err, f.Close())
			continue
		}
		member, err := io.ReadAll(io.LimitReader(f, slotBytes))
		if err != nil {
			faults = append(faults, err, f.Close())
			continue
		}
		list = append(list, &slot{file: f, member: string(member)})
	}
	return list, errors.Join(faults...)
}

// takeOver leaves the group for members of this machine that have died, and makes a slot for this one. Without it the
// group only waits for the session timeout, so what goes wrong is logged and no more.
func (s *Source) takeOver(ctx context.Context) {
	if s.settings.Local == "" || s.slot != nil {
		return
	}
	dir := slotFolder(s.settings.Local, s.config.Brokers, s.config.Group)
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	defer cancel()
	dead, err := abandoned(dir)
	faults := []error{err}
	for _, d := range dead {
		if d.member != "" {
			if err := s.leave(ctx, d.member); err != nil {
				faults = append(faults, err, d.file.Close()) // the next start tries again
				continue
			}
			s.log("left the kafka group for a process that has died", "group", s.config.Group, "member", d.member)
		}
		faults = append(faults, d.remove())
	}
	s.slot, err = makeSlot(dir)
	if err := errors.Join(append(faults, err)...); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		s.warn("kafka group: taking over from processes that died may wait for session_timeout",
			"group", s.config.Group, "error", err)
	}
}

// keep stores who this member is.
func (s *Source) keep(member string) {
	if s.slot == nil {
		return
	}
	if err := s.slot.write(member); err != nil {
		s.warn("kafka group: taking over from this process may wait for session_timeout",
			"group", s.config.Group, "error", err)
	}
}

// leave takes a member out of the group. The client may hold connections from before a restart of the broker, which it
// finds out by using them: a failure that is not the broker's answer, or one that passes, is tried again on new ones.
func (s *Source) leave(ctx context.Context, member string) error {
	var pause backoff
	for {
		err := leaveGroup(ctx, s.client, s.config.Group, member)
		var answer kafka.Error
		if err == nil || errors.Is(err, pipeline.ErrConfig) || errors.As(err, &answer) && !answer.Temporary() {
			return err
		}
		closeClient(s.client)
		if pause.wait(ctx) != nil {
			return err
		}
	}
}

// leaveGroup is no error for a member that was evicted before.
func leaveGroup(ctx context.Context, client *kafka.Client, group, member string) error {
	res, err := client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{
		GroupID: group, Members: []kafka.LeaveGroupRequestMember{{ID: member}},
	})
	if err != nil {
		return err
	}
	for _, m := range append(res.Members, kafka.LeaveGroupResponseMember{Error: res.Error}) {
		if m.Error != nil && !errors.Is(m.Error, kafka.UnknownMemberId) {
			return m.Error
		}
	}
	return nil
}
