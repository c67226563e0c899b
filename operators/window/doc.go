// Package window cuts the grid's rows of each asset into windows of event time.
//
// The kinds of windows, each [start, end):
//   - tumbling and hopping: [start, start + size) with start a multiple of hop since 1970-01-01 UTC.
//   - session: from an asset's first row after a gap to its last row before the next, grid included. A row that is gap
//     or more after the one before begins another session; so does one that is max_duration or more after the start.
//   - count: the last rows of the asset, whatever their times, one window every so many rows.
//   - trigger: from pre before the row for which start holds to post after the row for which stop does; the stop's row
//     is the first that is not in the window (if post is 0s). Rows are judged one by one: the stop counts from the row
//     after the start, and its row may be the next start. If no stop comes within max_duration of the start, the window
//     is closed there by force, and the next begins only after stop has held, or start has not. A window of less than
//     min_duration from start to stop is not given; its rows are counted as too_short.
//   - calendar: hours, shifts, days, weeks (from Monday) or months as the clocks of a zone show them: a day has 23 or
//     25 hours when they are changed. Hours are counted from the start of the day, and the last of a day may be
//     shorter.
//
// Windows are given at the watermark at which all their rows are in, whether or not the asset still speaks: at the last
// grid time of the window; for session when nothing can go on with it; for trigger not before the stop's own row. They
// come in the order of those times, assets of one time in the order they were first seen. A window without a row is not
// given, so silence makes no windows. At the end of input every window that has rows is given (of count, one with the
// rows left over).
//
// Of n rows of an asset without a gap, the first at a multiple of hop, come exactly floor((n - T) / H) + 1 windows with
// an empty cut, T = size / grid, H = hop / grid; of count T = rows, H = every. The others have a reason: cut_start if
// the window begins before the asset's first row (for trigger also with it), else cut_end if the input ended before the
// window did, else max_duration if it was closed by force.
//
// In: schemas.WideFields and a float64 column per channel, with their schemas.Layout. Out: schemas.WindowFields with T
// the most rows that a window can have: max_duration / grid for session, (pre + max_duration + post) / grid for
// trigger, for calendar what its zone asks for. Row k of the samples is the k-th grid time at or after start, for count
// the k-th row; a missing row, and what lies behind a shorter window, is null. n counts the rows; coverage is the mean
// of the rows' coverages over the grid times in [start, end), over T for count, a missing row counting 0.
//
// With a lateness in the settings, rows at or before the watermark, by no more than the lateness, correct what is out:
// at the next Advance (or Finish), before other windows, each window that they change or make is given once more, by
// window end, with a revision one higher than it had; one that was never out has revision 0. Windows are those that the
// same rows in order would have given. Where bounds depend on rows, a late row may so replace a window by others: the
// old one is given once more, with n 0 and cut withdrawn. A row of a time held before replaces that row if its revision
// is over 0.
//
// State: the rows of open windows and, with a lateness, of windows that can still be corrected, bounded by max_state.
// If more is to be kept, the latter are let go, the oldest first. Rows that can't be used are counted: late (at or
// before the watermark by more than the lateness), duplicate (same asset and time; the first counts), off_grid,
// out_of_range, max_assets, max_state (no room for the row, or for what it would correct).
package window
